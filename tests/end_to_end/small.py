"""The demo world in small: a whole pipeline in a minute, long enough to be cut off anywhere."""

SMALL = """
catalog: {demo: {n_items: 60, n_users: 120, n_intents: 8}}
embedding: {rows_per_part: 8, batch_size: 8}
semantic_ids: {levels: 2, codebook_size: 8}
recommender: {decoder: {hidden_size: 32, num_layers: 2, num_heads: 2, ffn_size: 64}}
sft: {epochs: 6, rows_per_step: 2, row_length: 96, warmup_steps: 4, patience: 6}
evaluation: {ks: [1, 10], beam: 20, n_bootstrap: 20, unconstrained: false}
baselines: {run: [popularity]}
"""
