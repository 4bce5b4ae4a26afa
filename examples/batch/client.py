"""The example plans through MCP, with the official Python client, and what has to come of them.

    client.py expect PLAN            reads what `batch_result` answered from stdin
    client.py MODE URL PLAN ...      runs plans through the endpoint; MODE is `legacy` (2025-11-25) or `auto` (2026-07-28)

Says what came; ends with a traceback at the first thing that is not as it should be.
"""

import asyncio
import json
import sys
from pathlib import Path


def expect(plan: str, result: dict) -> None:
    name = Path(plan).stem
    state, output = result["state"], result.get("output")
    if name == "torn-down":
        assert state == "failed" and "there-is-no-such-node" in result["reason"]["message"], result["reason"]
    else:
        assert state == "succeeded", (state, result["reason"])
    match name:
        case "three-instances":
            assert len(set(output["instances"])) == 3, output
            assert len({it.strip() for it in output["said"]} - {""}) == 3, output
            assert output["ended"] == ["terminated"] * 3, output
        case "two-servers":
            assert "42" in output[0] and "T21:00:00+09:00" in output[1], output
        case "every-node":
            nodes = {it["structuredContent"]["node_id"]: it["structuredContent"]["status"] for it in output["nodes"]}
            assert set(nodes) == {"local", "sim-1", "sim-2"} and set(nodes.values()) == {"healthy"}, nodes
            assert output["not_checked"] == [], output
            output = nodes
    print(f"  {name}: {state}, {json.dumps(output)[:120]}", flush=True)


async def run(mode: str, url: str, plans: list[str]) -> None:
    from mcp import Client

    async with Client(url, mode=mode, read_timeout_seconds=60) as client:
        for plan in plans:
            seen = []

            async def on_progress(done: float, total: float | None, message: str | None) -> None:
                seen.append(done)

            arguments = {"plan": json.loads(Path(plan).read_text()), "wait": True}
            ended = await client.call_tool("batch_execute", arguments, progress_callback=on_progress)
            assert not ended.is_error, ended
            assert seen and seen == sorted(seen), seen
            of = {"task_id": ended.structured_content["task_id"]}
            result = await client.call_tool("batch_result", of)
            assert not result.is_error, result
            expect(plan, result.structured_content)


if __name__ == "__main__":
    if sys.argv[1] == "expect":
        expect(sys.argv[2], json.load(sys.stdin))
    else:
        asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
