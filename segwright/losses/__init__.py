"""One loss a file, any number of spatial axes."""
