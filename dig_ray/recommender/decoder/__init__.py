"""The decoder's fast passes: what a Hugging Face decoder stack computes, with less work and the same up to rounding.

A small policy is bound by the number of tensor operations and by memory, not by arithmetic, and Hugging Face's own forward pass spends
most of both on what a search or a step of GRPO does not need. For decoding, ``tree_cache`` keeps a prompt once for all beams of its user,
and runs ``slim_decoder``, a forward pass without gradients, on the layers as ``slim_weights`` packs them. For training, ``slim_block`` is
a block with its gradient written out, ``read_states`` evaluates the last layer only where its states are read, and ``prompt_pass`` reads
prompts once for rollouts and for the update that follows. Questions (``is_slim``, ``in_family``, ``has_slim_blocks``, ``can_go_on``) say
which stacks they compute; every other one runs its own modules.
"""
