"""What PyInstaller cannot find by itself: adapters are imported by name, BPF programs are data."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules(
    "agentcgroup", filter=lambda name: not name.startswith("agentcgroup.autoload")
)
datas = collect_data_files("agentcgroup", subdir="bpf")
