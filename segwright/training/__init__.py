"""The loop and what only it needs; the one room that knows Fabric."""
