"""What a server behind asks of the client while it works on a call: its user, its model, its folders.

    questions.py MODE PREFIX URL
    questions.py MODE PREFIX COMMAND [ARGUMENT ...]

MODE is `legacy` or `auto` as for client.py, PREFIX what stands before the tools' names: `everything__` behind the gateway,
nothing where `server-everything` is spoken to directly.
"""

import asyncio
import sys

from mcp import Client, StdioServerParameters
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

asked = []


async def user(context, params) -> ElicitResult:
    asked.append("elicitation")
    return ElicitResult(action="accept", content={"name": "Ada", "check": True})


async def model(context, params) -> CreateMessageResult:
    asked.append("sampling")
    said = TextContent(type="text", text="an answer of this client's model")
    return CreateMessageResult(role="assistant", content=said, model="none", stop_reason="endTurn")


async def folders(context) -> ListRootsResult:
    asked.append("roots")
    return ListRootsResult(roots=[Root(uri="file:///of/this/client", name="here")])


async def until_offered(client: Client, name: str) -> None:
    """The server offers these tools when it knows what its client can do, which it may find out after the first list."""
    for _ in range(100):
        names = {it.name for it in (await client.list_tools(cache_mode="refresh")).tools}
        if name in names:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} is not among {sorted(names)}")


async def main(mode: str, prefix: str, target: list[str]) -> None:
    server = target[0] if target[0].startswith("http://") else StdioServerParameters(command=target[0], args=target[1:])
    client = Client(
        server,
        mode=mode,
        read_timeout_seconds=30,
        elicitation_callback=user,
        sampling_callback=model,
        list_roots_callback=folders,
    )
    async with client:
        print(f"Python client that can be asked, {client.protocol_version}")
        for tool, arguments, kind, wanted in [
            ("trigger-elicitation-request", {}, "elicitation", "Ada"),
            ("trigger-sampling-request", {"prompt": "say something"}, "sampling", "an answer of this client's model"),
            ("get-roots-list", {}, "roots", "file:///of/this/client"),
        ]:
            await until_offered(client, f"{prefix}{tool}")
            result = await client.call_tool(f"{prefix}{tool}", arguments)
            text = " ".join(it.text for it in result.content if it.type == "text")
            assert not result.is_error and wanted in text, result
            assert kind in asked, asked
            print(f"  {prefix + tool:<44} asked for {kind}: {' '.join(text.split())[:70]}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
