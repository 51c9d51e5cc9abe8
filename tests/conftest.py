"""What holds for all tests: no framework tells anybody that it is being tested."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_STORAGE = tempfile.mkdtemp(prefix="agentcgroup-tests-")
atexit.register(shutil.rmtree, _STORAGE, ignore_errors=True)

os.environ.update(
    LANGSMITH_TRACING="false",
    LANGCHAIN_TRACING_V2="false",
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",  # asks for no consent
    CREWAI_STORAGE_DIR=_STORAGE,
    OTEL_SDK_DISABLED="true",
    ANONYMIZED_TELEMETRY="False",
)
