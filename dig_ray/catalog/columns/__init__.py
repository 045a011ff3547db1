"""From a file's columns, of whatever type a writer gave them, to the fields of items and interactions."""
