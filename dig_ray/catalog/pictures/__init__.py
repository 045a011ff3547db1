"""The items' pictures: found, fetched, opened once under limits, and kept in one file."""
