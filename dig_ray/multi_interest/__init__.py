"""LDMI (arXiv 2507.10917): collaborative multi-interests of users, aligned with what an LLM groups their items into."""
