"""How large a codebook, and are these Semantic IDs any good? Quantizers by the dozen, the best of them with a short SFT.

Levels, codebook sizes, RQ-VAE or residual k-means and what belongs to either; ASHA stops RQ-VAEs by an early sign (squared error over
variance plus the share of items whose code is shared, our choice); the finalists and the base run are judged by validation NDCG@10.

    python jobs/sweep_tokenizer.py demo_tokenizer           # two cores: about 6 minutes
    python jobs/sweep_tokenizer.py amazon14_beauty_tokenizer
    python jobs/sweep_tokenizer.py demo_tokenizer --samples 40 'semantic_ids.rqvae.latent=choice(16, 32, 64)'
"""

import sys
from pathlib import Path

from dig_ray.console.cli import sweep_job

if __name__ == "__main__":
    sys.exit(sweep_job(__doc__, Path(__file__).parent / "configs", target="semantic_ids"))
