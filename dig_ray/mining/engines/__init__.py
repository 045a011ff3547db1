"""Engines behind one contract: requests in, results out, whatever answers them."""
