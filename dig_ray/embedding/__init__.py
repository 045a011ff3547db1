"""Evidence to vectors: text encoders on Ray Data, and vectors brought along."""
