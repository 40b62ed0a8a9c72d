"""``pgconductor demo``: real work on real processes, one of which is killed, and a proof."""
