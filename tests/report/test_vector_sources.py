"""What is said about where vectors come from."""

from __future__ import annotations

from dig_ray.report.vector_sources import made_from


def test_the_report_says_what_vectors_were_made_from():
    text = {
        "model": "minilm",
        "rows": 10,
        "texts_cut": 4,
        "token_limit": 16,
        "notes": {"interests_not_positive": 2, "interests_read": 7},
    }
    manifests = {
        "embedding": {"stats": text, "recipe": {"config": {"embedding": {"fields": ["title", "interests"]}}}},
        "image_embedding": {
            "stats": {"model": "no CLIP (8 x 8 colours)", "rows": 10, "items_without_picture": 3}
        },
        "fusion": {"stats": {"target": "reconstruction", "dimensions": 384, "effective_rank": 41.2}},
    }
    words, picture, fused = made_from(manifests)
    assert "minilm: title, interests." in words and "4 of 10 items have more text than the 16 tokens" in words
    assert "2 interests that are not labelled positive are left out, 7 are read" in words
    assert (
        "no CLIP (8 x 8 colours); 3 of 10 items have no picture" in picture
        and "reconstruction into 384" in fused
    )
    assert made_from({}) == []
