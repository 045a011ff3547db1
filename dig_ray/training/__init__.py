"""Training the policy on Ray Train."""
