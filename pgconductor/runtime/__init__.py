"""The asyncio side: what a process does between fetching an execution and completing it."""
