"""The main job through the official Python client: list, launch, watch, use, terminate.

    client.py MODE NAME URL
    client.py MODE NAME COMMAND [ARGUMENT ...]

MODE is `legacy` (2025-11-25) or `auto` (which must find 2026-07-28), NAME what to call the instance. Prints what it saw
as JSON; ends with a traceback at the first thing that is not as it should be.
"""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

VERSIONS = {"legacy": "2025-11-25", "auto": "2026-07-28"}


async def watched_until_gone(client: Client, instance_id: str) -> list[str]:
    """Terminates the instance, and returns what was heard of it meanwhile."""
    uri = f"instance://{instance_id}"
    async with client.listen(resources_list_changed=True, resource_subscriptions=[uri]) as subscription:
        assert list(subscription.honored.resource_subscriptions) == [uri], subscription.honored
        await call(client, "terminate_instance", {"id": instance_id})
        heard = []
        async for event in subscription:
            heard.append(type(event).__name__)
            if len(heard) == 2:
                return heard
    raise AssertionError(f"the subscription ended after {heard}")


async def call(client: Client, tool: str, arguments: dict, **options) -> dict:
    # The client checks each answer against the tool's output schema.
    result = await client.call_tool(tool, arguments, **options)
    assert not result.is_error, result
    assert result.content[0].text, "a person has something to read"
    return result.structured_content


async def main(mode: str, name: str, target: list[str]) -> dict:
    is_url = target[0].startswith("http://")
    server = target[0] if is_url else StdioServerParameters(command=target[0], args=target[1:])
    async with Client(server, mode=mode, read_timeout_seconds=60) as client:
        assert client.protocol_version == VERSIONS[mode], client.protocol_version
        assert "launch_instance" in client.instructions
        tools = {it.name for it in (await client.list_tools()).tools}
        nodes = await call(client, "list_nodes", {})
        assert any(it["id"] == "sim-1" for it in nodes["nodes"]), nodes

        progress = []

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            progress.append(done)

        wanted = {"name": name, "image": f"pull/{name}:1", "ports": [80], "node_id": "sim-1"}
        launched = await call(client, "launch_instance", wanted, progress_callback=on_progress)
        assert launched["state"] == "running", launched
        assert progress == sorted(set(progress)) and progress, progress
        seen = await call(client, "get_instance", {"id": launched["id"]})
        assert seen["address"] == launched["address"], seen
        read = await client.read_resource(f"instance://{launched['id']}")
        assert json.loads(read.contents[0].text)["id"] == launched["id"]
        prompt = await client.get_prompt("diagnose_node", {"node_id": "sim-1"})
        assert "Node: sim-1" in prompt.messages[0].content.text

        refused = await client.call_tool("launch_instance", {"image": "nginx", "privileged": True})
        assert refused.is_error and refused.structured_content["error"] == "InvalidParameter", refused
        try:
            await client.call_tool("no_such_tool", {})
            raise AssertionError("a tool that does not exist is an error of the protocol")
        except MCPError as err:
            assert err.code == -32602, err

        if mode == "auto":
            heard = await watched_until_gone(client, launched["id"])
            assert "ResourceUpdated" in heard, heard
        else:
            await call(client, "terminate_instance", {"id": launched["id"]})
        gone = await call(client, "get_instance", {"id": launched["id"]})
        assert gone["state"] == "terminated", gone
        return {"version": client.protocol_version, "tools": len(tools), "progress": len(progress)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))))
