"""What stages leave behind: the store, its files, folders and manifests, and the code version that a fingerprint stands on."""
