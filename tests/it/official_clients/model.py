"""A batch that the client's own model plans, through the official Python client.

    model.py MODE URL
    model.py MODE COMMAND [ARGUMENT ...]

MODE is `legacy` (2025-11-25) or `auto` (which must find 2026-07-28). Prints what it saw as JSON; ends with a traceback at the
first thing that is not as it should be.
"""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.types import CreateMessageRequestParams, CreateMessageResult, TextContent

REQUEST = "list the nodes of the cluster and say which one is simulated"
PLAN = '{"id": "nodes", "tool": "orch.list_nodes", "arguments": {}}\n{"done": true}'


async def main(mode: str, target: list[str]) -> dict:
    is_url = target[0].startswith("http://")
    server = target[0] if is_url else StdioServerParameters(command=target[0], args=target[1:])
    asked = []

    async def model(_context, params: CreateMessageRequestParams) -> CreateMessageResult:
        said = params.messages[-1].content.text
        asked.append(params)
        if params.system_prompt.startswith("Tools will be searched"):
            text = '{"query": "list cluster nodes"}'
        elif said.startswith("All steps have ended."):
            assert "sim-1" in said, said
            text = '{"answer": "It is sim-1."}'
        else:
            text = PLAN
        return CreateMessageResult(role="assistant", model="none", content=TextContent(type="text", text=text))

    async with Client(server, mode=mode, read_timeout_seconds=60, sampling_callback=model) as client:
        result = await client.call_tool("batch_execute", {"request": REQUEST, "wait": True})
        assert not result.is_error, result
        batch = result.structured_content
        assert batch["state"] == "succeeded", batch
        return {"version": client.protocol_version, "answer": batch["answer"], "n_asked": len(asked)}


print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2:]))))
