"""A generated world of products, usage contexts and users, in which it is known why everybody chose what."""
