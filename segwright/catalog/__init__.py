"""What is known of every network: the table of all, and the card of one."""
