/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The programs of files, blocks and packets. */

SEC("fentry/security_file_open")
int on_open(u64 *ctx)
{
	u32 slot = current_slot();

	if (slot)
		add(slot, FILES_OPENED, 1);
	return 0;
}

enum { REQ_OP_READ, REQ_OP_WRITE, REQ_OP_MASK = 0xff };

/* The kernel attributes write-back to the cgroup that dirtied the page. */
SEC("tp_btf/block_bio_queue")
int on_bio(u64 *ctx)
{
	struct bio *bio = (void *)ctx[0];
	u32 operation = bio->bi_opf & REQ_OP_MASK, slot;

	/* Other operations, such as discards, have a size too, but transfer no bytes. */
	if (operation != REQ_OP_READ && operation != REQ_OP_WRITE)
		return 0;
	slot = slot_of_cgroup(bio->bi_blkg->blkcg->css.cgroup->kn->id);
	if (!slot)
		return 0;
	if (operation == REQ_OP_READ)
		add(slot, BLOCK_READ_BYTES, bio->bi_iter.bi_size);
	else
		add(slot, BLOCK_WRITE_BYTES, bio->bi_iter.bi_size);
	return 0;
}

/* Both are attached to a cgroup above the calls', and get each packet with its IP header. */
SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *packet)
{
	add(slot_of_cgroup(bpf_skb_cgroup_id(packet)), NET_RX_BYTES, packet->len);
	return 1;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *packet)
{
	add(slot_of_cgroup(bpf_skb_cgroup_id(packet)), NET_TX_BYTES, packet->len);
	return 1;
}
