"""See the head of each module in this folder."""
