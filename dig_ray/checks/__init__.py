"""What can be known before hours of work: what a run needs of the machine, and whether settings go with the catalogue."""
