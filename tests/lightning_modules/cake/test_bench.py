import pytest

from septet.launch.bench.cake import ragged, roofline, run


@pytest.mark.slow
def test_quick_benchmark_has_peers_and_limits():
    rows = {row["name"]: row for row in run("cpu", quick=True)}
    assert rows["stream read"]["value"] > 0
    assert rows["uniform 1024 x 8 heads"]["peer"] == "repeat_kv"
    assert rows["ragged 8192 tokens, skew 3.1"]["limit"] == rows["ragged 8192 tokens, skew 3.1"]["peer_value"] / 2
    assert rows["decode/4096/cake-256"]["peer"] == "full"
    assert "byte ratio 0.0625" in rows["decode/4096/cake-256"]["note"]
    assert all(
        set(row) == {"name", "value", "unit", "peer", "peer_value", "ratio", "limit", "note"} for row in rows.values()
    )


def test_roofline_equals_the_published_arithmetic():
    rows = {row["name"]: row for row in roofline(4.3e12)}
    assert rows["limit/Llama2-7B/b1/128K"]["peer_value"] == pytest.approx(19.1, rel=0.01)
    assert rows["limit/Llama3.1-8B/b8/128K"]["value"] == pytest.approx(3.99, rel=0.01)
    assert rows["limit/Mistral-7B/b8/128K"]["peer_value"] == pytest.approx(35.3, rel=0.01)


def test_ragged_lengths_keep_their_sum():
    import torch

    layer = ragged(2, 4, 500, 8, 16, torch.float32, "cpu")
    assert abs(layer.live_tokens() - 4000) <= 8
    assert layer.max_length() > 2 * 500
