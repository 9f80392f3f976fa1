"""How a network is supervised, one method a file."""
