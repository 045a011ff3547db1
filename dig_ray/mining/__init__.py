"""Evidence to interests: prompts, strict answers, engines, exactly-once mining, merge, judge, quality."""
