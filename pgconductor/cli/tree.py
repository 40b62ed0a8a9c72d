"""``show``: an execution as a tree of its steps, its waits and its children."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from pgconductor.cli.database import with_conductor
from pgconductor.cli.options import as_json, database_url, execution_id
from pgconductor.cli.output import (
    WIDTH,
    matched,
    moment,
    one_line,
    plain,
    print_fields,
    print_json,
    print_lines,
    shortened,
)

if TYPE_CHECKING:
    from pgconductor.domain.trees import Branch, ExecutionTree, Relative, StepSnapshot

__all__ = ["show_command"]


@click.command("show")
@execution_id
@click.option(
    "--depth",
    type=click.IntRange(0, 20),
    default=3,
    show_default=True,
    help="How many generations of children.",
)
@as_json
@database_url
def show_command(
    *, execution_id: UUID, depth: int, as_json: bool, database_url: str | None
) -> None:
    """Show one execution: its steps, what it waits for, and its children.

    Of children only what they wait for is shown; show a child for its steps.
    """
    tree = with_conductor(
        database_url, lambda conductor: conductor.executions.tree(execution_id, depth=depth)
    )
    found: dict[str, Any] = plain(tree.execution)
    if as_json:
        parts = {"steps": tree.steps, "children": tree.children, "hidden": tree.hidden}
        print_json(found | parts)
        return
    for name in ("payload", "result"):
        if found[name] is not None:
            found[name] = json.dumps(found[name], indent=2, ensure_ascii=False)
    found["attempts"] = f"{found['attempts']} of {found.pop('max_attempts')}"
    found["crashes"] = f"{found['crashes']} of {found.pop('max_crashes')}"
    print_fields(found)
    lines = list(_drawn(_of_tree(tree)))
    if lines:
        click.echo()
        print_lines(lines)


class _Node:
    """A line of the tree, and what hangs below it."""

    def __init__(self, text: str, below: list[_Node] | None = None) -> None:
        self.text = text
        self.below = below or []


def _drawn(nodes: list[_Node], before: str = "") -> Iterator[str]:
    for node in nodes:
        last = node is nodes[-1]
        yield f"{before}{'└── ' if last else '├── '}{one_line(node.text)}"
        yield from _drawn(node.below, before + ("    " if last else "│   "))


def _of_tree(tree: ExecutionTree) -> list[_Node]:
    children = {one.execution.id: one for one in tree.children}
    nodes: list[_Node] = []
    over = tree.execution.state.finished
    for step in tree.steps:
        child = None if step.child_id is None else children.pop(step.child_id, None)
        if child is None:
            nodes.append(_Node(_step(step, over=over)))
        else:
            nodes.append(_Node(_step(step, over=over, shown=True), [_child(child, known=True)]))
    # What a retry has dropped the step of, or what is beyond the steps that are shown.
    nodes += [_child(one) for one in children.values()]
    return nodes + _hidden(tree.hidden)


def _child(branch: Branch, *, known: bool = False) -> _Node:
    """A child; its key is known where the step is the line above."""
    key = None if known else branch.key
    over = branch.execution.state.finished
    waits = [_Node(_step(one, over=over)) for one in branch.waits]
    children = [_child(one) for one in branch.children]
    return _Node(_execution(branch.execution, key), [*waits, *children, *_hidden(branch.hidden)])


def _hidden(number: int) -> list[_Node]:
    from pgconductor.domain.trees import MAX_FAMILY

    if number == 0:
        return []
    many = f"more than {MAX_FAMILY}" if number > MAX_FAMILY else str(number)
    return [_Node(f"… {many} {'child' if number == 1 else 'children'} not shown")]


def _step(step: StepSnapshot, *, over: bool, shown: bool = False) -> str:
    """A step, of an execution that is over or not; its child's id is told unless it is shown."""
    parts = [step.key, f"[{step.kind}]", step.detail or "", matched(step.match)]
    if step.pending:
        # What has finished meanwhile keeps it for a retry, and waits for nothing.
        parts.append(f"{'waited' if over else 'waits'} since {moment(step.created_at)}")
        if step.wake_at is not None and not over:
            parts.append(f"until {moment(step.wake_at)}")
    if step.error is not None:
        parts.append(shortened(one_line(f"{step.error_type}: {step.error}"), WIDTH))
    elif step.result is not None:
        text = json.dumps(step.result, ensure_ascii=False)
        parts.append(shortened(one_line(text), WIDTH))
    if step.child_id is not None and not shown:
        parts.append(str(step.child_id))
    return " ".join(filter(None, parts))


def _execution(one: Relative, key: str | None) -> str:
    parts = ["" if key is None else key, one.task_key, str(one.id), one.state]
    parts.append(f"attempts {one.attempts}/{one.max_attempts}")
    if one.crashes:
        parts.append(f"crashes {one.crashes}/{one.max_crashes}")
    if one.cancel_reason is not None:
        parts.append(shortened(one_line(one.cancel_reason), WIDTH))
    elif one.last_error is not None:
        parts.append(shortened(one_line(f"{one.last_error_type}: {one.last_error}"), WIDTH))
    return " ".join(parts)
