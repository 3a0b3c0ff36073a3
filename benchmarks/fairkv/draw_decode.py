"""Picture and README table of the records of run_decode.py.

Usage: python benchmarks/fairkv/draw_decode.py benchmarks/fairkv/decode.png RECORD.json [RECORD.json ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from septet.lightning_modules.strategies.pictures import predicted_figure


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; bytes are those of the fullest process."""
    out = [
        "| GPUs, profile, budget x batch | plan | U | attention ms | (simulated) | step ms | (simulated) | tokens/s "
        "| KV + weights GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = max(a + b for a, b in zip(row["kv_bytes_by_device"], row["weight_bytes_by_device"], strict=True))
        parts = [
            f"{row['world']}, {row['profile']}, {row['budget']} x {row['batch']}", row["plan"],
            f"{row['utilisation']:.2f}", f"{row['attention_ms']:.2f} ({row['attention_ratio']:.2f}x)",
            f"{row['simulated_attention_ms']:.2f} ({row['simulated_attention_ratio']:.2f}x)",
            f"{row['step_ms']:.2f} ({row['step_ratio']:.2f}x)",
            f"{row['simulated_step_ms']:.2f} ({row['simulated_step_ratio']:.2f}x)",
            f"{row['tokens_per_second']:.0f}", f"{size / 2**30:.1f}",
        ]  # fmt: skip
        out.append(f"| {' | '.join(parts)} |")
    return "\n".join(out)


def main(target: str, records: list[str]) -> None:
    """Draw all rows, print the table."""
    rows = [row for record in records for row in json.loads(Path(record).read_text())["rows"]]
    predicted_figure(rows).savefig(target, dpi=110)
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="PNG to write")
    parser.add_argument("records", nargs="+", help="of run_decode.py")
    options = parser.parse_args()
    main(options.target, options.records)
