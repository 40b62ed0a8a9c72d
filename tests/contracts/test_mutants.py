"""The contracts have teeth: a statement that lacks one of its conditions fails the test named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from pgconductor import sql
from pgconductor.domain.claims import Fetched
from pgconductor.domain.outcomes import Completed, Failed, Outcome
from pgconductor.repositories.errors import sqlstate
from pgconductor.schema import script_location
from pgconductor.types import ExecutionState
from tests.contracts import (
    test_cancel,
    test_complete,
    test_events,
    test_families,
    test_fetch,
    test_old_snapshots,
    test_orchestrators,
    test_pairing,
    test_races,
    test_races_of_retention,
    test_races_of_waits,
    test_recovery,
    test_retention,
    test_retry,
    test_steps,
    test_suspend,
    test_waits,
)
from tests.contracts.harness import FAILURE, PostgresHarness

Contract = Callable[[Any], Awaitable[None]]
RUNNING, COMPLETED = ExecutionState.RUNNING, ExecutionState.COMPLETED


def completed(one: Fetched) -> Outcome:
    return Completed(one.id, one.claim)


def failed(one: Fetched) -> Outcome:
    return Failed(one.id, one.claim, FAILURE)


async def another_completes(db: PostgresHarness) -> None:
    await test_complete.test_another_orchestrators_write_changes_nothing(db, completed)


async def another_fails(db: PostgresHarness) -> None:
    await test_complete.test_another_orchestrators_write_changes_nothing(db, failed)


async def mixed_shapes(db: PostgresHarness) -> None:
    for seed in range(4):
        await test_pairing.test_waits_take_what_the_rule_says(db, seed, 60)


async def begun_together(db: PostgresHarness) -> None:
    await test_pairing.test_what_begins_together_takes_in_the_order_of_beginning(
        db, ("z", "a", "m"), None
    )


async def many_looked(db: PostgresHarness) -> None:
    await test_pairing.test_many_waits_take_many_events_in_one_call(db, "each", looked=True)


async def an_earlier_claim_completes(db: PostgresHarness) -> None:
    await test_complete.test_a_stale_owners_write_changes_nothing(
        db, test_complete.fetched_again_by_the_same, completed
    )


async def an_earlier_claim_fails(db: PostgresHarness) -> None:
    await test_complete.test_a_stale_owners_write_changes_nothing(
        db, test_complete.fetched_again_by_the_same, failed
    )


async def an_acknowledgement_is_lost(db: PostgresHarness) -> None:
    await test_complete.test_a_finish_whose_acknowledgement_was_lost_is_recognised(
        db, "complete", completed
    )


async def completed_is_cancelled(db: PostgresHarness) -> None:
    await test_cancel.test_a_cancellation_wins_over_what_the_handler_did(db, completed)


async def failed_is_cancelled(db: PostgresHarness) -> None:
    await test_cancel.test_a_cancellation_wins_over_what_the_handler_did(db, failed)


async def a_cancellation_slips_in(db: PostgresHarness) -> None:
    await test_old_snapshots.test_a_cancellation_slips_in_before_the_end(
        db, "COMPLETE", lambda db, held: db.fail(held)
    )


async def a_recovery_slips_in(db: PostgresHarness) -> None:
    await test_old_snapshots.test_a_new_owner_slips_in_before_the_end(
        db, "COMPLETE", lambda db, held: db.fail(held)
    )


async def an_earlier_claim_records(db: PostgresHarness) -> None:
    await test_steps.test_a_stale_owners_step_is_refused(db, "fetched again")


async def another_records(db: PostgresHarness) -> None:
    await test_steps.test_a_stale_owners_step_is_refused(db, "other orchestrator")


async def what_runs_is_retried(db: PostgresHarness) -> None:
    await test_retry.test_nothing_else_can_be_retried(db, RUNNING)


async def what_a_task_says_is_not_heeded(db: PostgresHarness) -> None:
    await test_retention.test_a_task_says_how_long_its_executions_are_kept(db, COMPLETED)


async def a_threshold_is_not_reached(db: PostgresHarness) -> None:
    await test_recovery.test_lateness_is_measured_by_the_threshold(db, 25, late=False)


async def others_begin(db: PostgresHarness) -> None:
    await test_waits.test_nobody_else_begins_anything(db, "other orchestrator")


async def an_earlier_claim_begins(db: PostgresHarness) -> None:
    await test_waits.test_nobody_else_begins_anything(db, "other claim")


async def others_record_many(db: PostgresHarness) -> None:
    await test_steps.test_of_many_each_must_prove_its_owner(db, "other orchestrator")


async def an_earlier_claim_records_many(db: PostgresHarness) -> None:
    await test_steps.test_of_many_each_must_prove_its_owner(db, "fetched again")


async def a_retry_goes_back(db: PostgresHarness) -> None:
    await test_families.test_a_retry_may_go_back_to_a_step(db, "b", ["a"])


async def an_untold_child_is_removed(db: PostgresHarness) -> None:
    await test_families.test_a_child_is_kept_until_its_parent_is_told(db, completes=True)


async def cancelling_in_no_order(db: PostgresHarness) -> None:
    await test_races_of_waits.test_everybody_locks_in_the_order_of_the_ids(db, "cancel")


async def completing_in_no_order(db: PostgresHarness) -> None:
    await test_races_of_waits.test_everybody_locks_in_the_order_of_the_ids(db, "complete and fail")


#: Statement, condition, what it is replaced by, and who notices.
MUTANTS: list[tuple[str, str, str, Contract]] = [
    ("COMPLETE_RESULTS", "AND e.locked_by = CAST(:orchestrator_id AS uuid)", "",
     another_completes),
    ("COMPLETE_RESULTS", "AND e.claim_number = o.claim_number", "", an_earlier_claim_completes),
    ("COMPLETE_RESULTS", "AND e.cancel_requested_at IS NULL", "", completed_is_cancelled),
    ("COMPLETE_RESULTS", "WHERE NOT EXISTS", "WHERE EXISTS", completed_is_cancelled),
    ("COMPLETE", "AND e.locked_by = o.orchestrator_id", "", another_fails),
    ("COMPLETE", "AND e.claim_number = o.claim_number", "", an_earlier_claim_fails),
    ("COMPLETE", "FOR NO KEY UPDATE OF e", "", a_recovery_slips_in),
    ("COMPLETE", "AND f.finished_claim = o.claim_number", "AND false", an_acknowledgement_is_lost),
    ("COMPLETE", "WHEN e.cancel_requested_at IS NOT NULL THEN 'cancelled'", "",
     failed_is_cancelled),
    ("COMPLETE", "AND e.attempts < e.max_attempts", "",
     test_complete.test_the_last_attempts_failure_is_final),
    ("COMPLETE", "cancel_requested_at = h.cancel_requested_at,", "", a_cancellation_slips_in),
    ("COMPLETE", "greatest(e.attempts - 1, 0)", "e.attempts",
     test_complete.test_a_release_gives_the_attempt_back),
    ("FETCH", "WHERE EXISTS (SELECT 1 FROM owner)", "WHERE true",
     test_fetch.test_who_never_registered_gets_nothing),
    ("FETCH", "AND o.shutdown_requested_at IS NULL", "",
     test_fetch.test_who_is_asked_to_stop_gets_nothing),
    ("FETCH", "AND o.schema_version >= (SELECT g.floor FROM pgconductor.schema_gate g)", "",
     test_fetch.test_who_is_below_the_floor_gets_nothing),
    ("FETCH", "FOR KEY SHARE OF o", "",
     test_races.test_a_fetch_waits_for_the_removal_of_its_orchestrator),
    ("FETCH", "FOR KEY SHARE OF o", "FOR SHARE OF o",
     test_races.test_heartbeats_and_fetches_do_not_block_one_another),
    ("FETCH_AFTER", ">= (\n          CAST(:queue AS text)", "<= (\n          CAST(:queue AS text)",
     test_fetch.test_a_fetch_may_begin_at_a_place),
    ("FETCH_AFTER", "e.queue <= CAST(:queue AS text)", "CAST(:queue AS text) IS NOT NULL",
     test_fetch.test_a_place_does_not_lead_into_another_queue),
    ("FETCH", "SKIP LOCKED", "", test_races.test_fetchers_neither_block_one_another_nor_share),
    ("FETCH", "AND e.attempts < e.max_attempts", "",
     test_fetch.test_the_fetch_itself_passes_over_what_is_used_up),
    ("FETCH", "AND e.crashes < e.max_crashes", "",
     test_fetch.test_the_fetch_itself_passes_over_what_is_used_up),
    ("FETCH", "ELSE NOT p.suspect", "ELSE true",
     test_fetch.test_a_suspect_that_does_not_come_first_waits),
    ("FETCH", "THEN p.id = f.id", "THEN true",
     test_fetch.test_a_suspect_that_comes_first_is_fetched_alone),
    ("FETCH", "ORDER BY e.queue, -e.priority,", "ORDER BY e.queue, e.priority,",
     test_fetch.test_the_order_is_priority_then_run_at_then_id),
    ("TAKE_BACK", "SKIP LOCKED", "",
     test_races.test_recovery_passes_over_a_step_that_is_committing),
    ("TAKE_BACK", "AND e.locked_by = CAST(:orchestrator_id AS uuid)",
     "AND CAST(:orchestrator_id AS uuid) IS NOT NULL",
     test_recovery.test_only_the_named_orchestrators_are_taken),
    ("TAKE_BACK", "WHEN e.cancel_requested_at IS NOT NULL THEN 'cancelled'", "",
     test_cancel.test_a_cancellation_wins_over_a_crash),
    ("TAKE_BACK", "greatest(e.attempts - 1, 0)", "e.attempts",
     test_fetch.test_attempts_used_up_by_crashes),
    ("TAKE_BACK", "cancel_requested_at = h.cancel_requested_at,", "",
     test_old_snapshots.test_a_cancellation_slips_in_before_a_recovery),
    ("RECORD_STEP", "AND e.locked_by = CAST(:orchestrator_id AS uuid)",
     "AND CAST(:orchestrator_id AS uuid) IS NOT NULL", another_records),
    ("RECORD_STEP", "AND e.claim_number = (SELECT CAST(:claim_number AS bigint))",
     "AND CAST(:claim_number AS bigint) IS NOT NULL", an_earlier_claim_records),
    ("RECORD_STEP", "FOR SHARE OF e", "",
     test_races.test_recovery_passes_over_a_step_that_is_committing),
    ("RECORD_STEP", "FOR SHARE OF e", "FOR NO KEY UPDATE OF e",
     test_races.test_steps_of_one_execution_do_not_block_one_another),
    ("RETRY", "AND e.state IN ('failed', 'cancelled')", "", what_runs_is_retried),
    ("RETRY", "AND r.finished_at IS NULL", "",
     test_retry.test_a_finished_one_of_the_same_key_is_no_rival),
    ("RETRY", "AND r.queue = t.queue", "",
     test_retry.test_what_only_looks_like_a_rival_does_not),
    ("REMOVE_ORCHESTRATOR", "AND NOT EXISTS", "AND true OR EXISTS",
     test_recovery.test_a_row_is_removed_only_when_nothing_is_held),
    ("LOCK_STALE", "AND s.heartbeat_number = CAST(:heartbeat_number AS bigint)",
     "AND CAST(:heartbeat_number AS bigint) IS NOT NULL",
     test_recovery.test_who_has_beaten_since_it_was_observed_is_spared),
    ("LOCK_STALE", "pgconductor.wall_clock() - CAST(:stale_after AS interval)",
     "pgconductor.wall_clock() + CAST(:stale_after AS interval)", a_threshold_is_not_reached),
    ("LOCK_STALE", "SKIP LOCKED", "",
     test_races.test_an_orchestrator_that_is_fetching_is_not_stale),
    ("LOCK_RUNNING", "FOR NO KEY UPDATE OF e", "", completing_in_no_order),
    ("LOCK_RUNNING", "ORDER BY e.id", "ORDER BY e.id DESC", completing_in_no_order),
    ("LOCK_ORCHESTRATOR", "FOR UPDATE OF o", "",
     test_races.test_leaving_waits_for_a_fetch_and_gives_back_what_it_took),
    ("REGISTER", "greatest(gate.floor, gate.intent_floor)", "gate.intent_floor",
     test_orchestrators.test_the_gate_refuses_what_does_not_know_a_breaking_revision),
    ("REGISTER", "greatest(gate.floor, gate.intent_floor)", "gate.floor",
     test_orchestrators.test_the_gate_refuses_what_a_migration_is_about_to_shut_out),
    ("REGISTER", "least(gate.installed, gate.intent_ceiling)", "gate.installed",
     test_orchestrators.test_the_gate_refuses_what_cannot_work_after_a_downgrade),
    ("REGISTER", "least(gate.installed, gate.intent_ceiling)",
     "coalesce(gate.intent_ceiling, 9)",
     test_orchestrators.test_the_gate_refuses_a_database_that_is_behind),
    ("REQUEST_SHUTDOWN", "o.schema_required > CAST(:above_required AS integer)", "true",
     test_orchestrators.test_a_sweep_before_a_downgrade_asks_those_that_need_more),
    ("REGISTER", "FOR SHARE OF g", "",
     test_races.test_the_statement_that_registers_waits_by_itself),
    ("REMOVE_EXPIRED", "WHERE e.finished_at = x.finished_at", "WHERE true",
     test_races_of_retention.test_a_retry_slips_in_before_a_removal),
    ("REMOVE_EXPIRED", "FOR UPDATE OF e SKIP LOCKED", "FOR UPDATE OF e",
     test_races_of_retention.test_what_somebody_has_locked_is_left_for_the_next_walk),
    ("REMOVE_EXPIRED", "FOR NO KEY UPDATE OF w SKIP LOCKED", "",
     test_races_of_retention.test_two_never_walk_at_once),
    ("REMOVE_EXPIRED", "WHEN s.state = 'completed' THEN t.retain_completed", "",
     what_a_task_says_is_not_heeded),
    ("REMOVE_EXPIRED", "WHEN w.walks % 24 = 0", "WHEN false",
     test_retention.test_an_id_that_tells_no_time_is_found_by_a_later_walk),
    ("REMOVE_EXPIRED", "AND e.id <= (SELECT b.id FROM bound b)", "",
     test_retention.test_a_walk_ends_where_everything_is_younger),
    ("REMOVE_EXPIRED", "WHERE w.next_walk_at <= pgconductor.clock()", "",
     test_retention.test_the_next_walk_comes_an_hour_later),
    ("COMPLETE", "WHEN o.kind = 'suspended' AND e.wakes > o.wakes THEN 'available'", "",
     test_suspend.test_what_came_before_it_was_suspended_is_not_lost),
    ("COMPLETE", "h.kind IN ('released', 'suspended')", "h.kind = 'released'",
     test_suspend.test_waiting_does_not_use_up_attempts),
    ("START_STEPS", "AND e.locked_by = CAST(:orchestrator_id AS uuid)",
     "AND CAST(:orchestrator_id AS uuid) IS NOT NULL", others_begin),
    ("START_STEPS", "AND f.claim_number = s.claim_number", "", an_earlier_claim_begins),
    ("START_STEPS", "FOR SHARE OF e", "",
     test_races_of_waits.test_recovery_passes_over_what_is_beginning),
    ("START_STEPS", "WHERE NOT (f.ending AND s.kind IN ('child', 'spawn'))", "",
     test_waits.test_what_is_to_be_cancelled_begins_no_child),
    ("START_STEPS", "AND m.child_id = s.child_id", "AND s.child_id IS NOT NULL",
     test_waits.test_a_child_of_the_same_key_twice_in_one_call),
    ("START_STEPS", "WHEN s.kind = 'child' THEN pgconductor.clock()",
     "WHEN false THEN NULL",
     test_waits.test_a_child_is_invoked_as_its_parent_says),
    ("RECORD_STEPS", "AND e.locked_by = CAST(:orchestrator_id AS uuid)",
     "AND CAST(:orchestrator_id AS uuid) IS NOT NULL", others_record_many),
    ("RECORD_STEPS", "AND f.claim_number = s.claim_number", "",
     an_earlier_claim_records_many),
    ("RECORD_STEPS", "FOR SHARE OF e", "",
     test_races_of_waits.test_what_is_recorded_too_late_waits_for_recovery_and_is_refused),
    ("DUE_WAITS", "AND c.awaited AND", "AND",
     test_suspend.test_parents_are_due_until_they_are_told),
    ("DUE_WAITS", "AND (s.match IS NULL OR v.payload @> s.match)", "",
     test_suspend.test_events_are_due_until_they_are_marked),
    ("MARK_MATCHED", "v.id = ANY (CAST(:ids AS uuid[]))", "CAST(:ids AS uuid[]) IS NOT NULL",
     test_suspend.test_events_are_due_until_they_are_marked),
    ("MARK_MATCHED", "s.execution_id = ANY (CAST(:left AS uuid[]))",
     "CAST(:left AS uuid[]) IS NULL",
     test_pairing.test_one_that_is_locked_holds_up_nobody),
    ("LOOK_AGAIN", "SET looked = false", "SET looked = true",
     test_pairing.test_an_event_that_a_retry_gives_back_is_taken_by_who_is_left),
    ("START_STEPS", "        s.place, s.woke, s.turn\n    FROM step s",
     "        0, s.woke, s.turn\n    FROM step s",
     begun_together),
    ("FETCH", "CASE WHEN e.parent_key IS NOT NULL THEN e.parent_id END", "e.parent_id",
     test_waits.test_a_spawned_execution_goes_its_own_way),
    ("RETRY", "OR s.error IS NOT NULL", "",
     test_families.test_what_can_only_fail_again_is_dropped),
    ("RETRY", "c.state IN ('failed', 'cancelled')", "false",
     test_families.test_a_child_that_was_cancelled_is_invoked_anew),
    ("RETRY", "c.state IN ('failed', 'cancelled')", "true",
     test_families.test_a_child_that_is_still_under_way_is_waited_for_again),
    ("RETRY", "r.place > s.place, r.created_at > coalesce(s.ended_at, s.created_at)", "false",
     test_families.test_what_was_dealt_with_is_kept),
    ("RETRY", "r.place > s.place, r.created_at > coalesce(s.ended_at, s.created_at)", "true",
     test_families.test_what_can_only_fail_again_is_dropped),
    ("RETRY", "OR s.kind = 'try'", "", test_families.test_what_can_only_fail_again_is_dropped),
    ("RETRY", "s.created_at >= b.created_at", "s.created_at > b.created_at", a_retry_goes_back),
    ("RETRY", "r.place > s.place,", "NULL,", test_retry.test_numbers_go_before_the_clock),
    ("RETRY", "coalesce(r.place >= b.place, r.created_at >= b.created_at)", "false",
     test_retry.test_what_is_dropped_has_not_dealt_with_an_error),
    ("FORK", "s.place < b.place,", "NULL,", test_retry.test_numbers_go_before_the_clock),
    ("RECORD_STEPS", "now.it - make_interval(secs => s.took)", "now.it",
     test_retry.test_what_began_before_an_error_has_not_dealt_with_it),
    ("RETRY", "AND NOT EXISTS (SELECT 1 FROM unknown)", "",
     test_families.test_a_retry_from_an_unknown_step_changes_nothing),
    ("RETRY", "awaited = t.waited_for", "awaited = NOT t.waited_for",
     test_families.test_a_parent_hears_of_the_retry_that_it_has_not_missed),
    ("RETRY", "parent_key = CASE WHEN t.waited_for THEN e.parent_key END,", "",
     test_families.test_a_child_that_is_waited_for_in_vain),
    ("REMOVE_EXPIRED", "AND NOT (e.parent_key IS NOT NULL AND e.awaited)", "",
     an_untold_child_is_removed),
    ("HEARTBEAT", "AND e.locked_by = CAST(:id AS uuid)", "",
     test_cancel.test_what_somebody_holds_is_asked_to_end),
]  # fmt: skip


#: The same of functions in the database.
FUNCTIONS: list[tuple[str, str, str, Contract]] = [
    ("settle", "FOR NO KEY UPDATE OF e SKIP LOCKED", "",
     test_races_of_waits.test_settling_leaves_out_a_suspension_and_comes_again),
    ("settle", " SKIP LOCKED", "",
     test_races_of_waits.test_settling_leaves_out_a_suspension_and_comes_again),
    ("settle", "(p_ids || v_untold)", "(p_ids)",
     test_races_of_waits.test_a_child_that_is_locked_does_not_keep_its_end_from_its_parent),
    ("settle", " INTERSECT SELECT unnest(v_locked)", "",
     test_races_of_waits.test_a_child_that_is_locked_does_not_keep_its_end_from_its_parent),
    ("match_events", "AND x.emitted_at >= l.since", "",
     test_events.test_an_event_may_come_before_the_wait_but_not_before_the_invocation),
    ("match_events", "ORDER BY x.emitted_at, x.id", "ORDER BY x.emitted_at DESC",
     test_events.test_an_event_may_come_before_the_wait_but_not_before_the_invocation),
    ("match_events", "AND (l.match IS NULL OR x.payload @> l.match)", "",
     test_events.test_what_matches),
    ("match_events", "AND m.emitted_at >= m.since AND m.payload @> m.match", "", mixed_shapes),
    ("match_events", "ORDER BY max(f.emitted_at), f.id", "ORDER BY max(f.emitted_at) DESC",
     test_events.test_several_waits_take_one_event_each_at_once),
    ("match_events", "HAVING bool_and(f.number IS NOT NULL)", "HAVING count(f.number) > 0",
     test_events.test_of_two_waits_the_older_takes_the_first),
    ("match_events", "GROUP BY f.execution_id, f.id", "GROUP BY f.id",
     test_pairing.test_an_event_is_for_all_executions_of_one_call),
    ("match_events", "ORDER BY s.created_at, s.ordinal, s.key", "ORDER BY s.key",
     test_events.test_of_two_waits_the_older_takes_the_first),
    ("match_events", "s.created_at, s.ordinal, s.key", "s.created_at, s.key", begun_together),
    ("match_events", "ELSE 'infinity'", "ELSE '-infinity'",
     test_pairing.test_what_nobody_has_looked_at_goes_to_the_older_wait),
    ("match_events", "LIMIT l.total", "LIMIT 1",
     test_events.test_several_waits_take_one_event_each_at_once),
    ("match_events", "bool_and(s.looked) AS looked", "true AS looked",
     test_events.test_an_event_may_come_before_the_wait_but_not_before_the_invocation),
    ("match_events", "c_most constant integer := 5000", "c_most constant integer := 1",
     many_looked),
    ("match_events", "                        p_until,\n", "",
     test_pairing.test_what_commits_in_between_hides_nothing),
    ("settle", "SET looked = true", "SET looked = false", test_pairing.test_a_look_is_remembered),
    ("settle", "WHEN c.id IS NULL AND s.kind IN ('child', 'event') THEN '(timeout)'", "",
     test_events.test_an_event_that_does_not_come_in_time),
    ("settle", "WHEN s.kind = 'try' THEN s.error_type", "",
     test_waits.test_a_failed_try_waits_and_keeps_its_error),
    ("settle", "WHEN e.state = 'waiting' THEN 'available'", "WHEN false THEN NULL",
     test_suspend.test_it_is_available_when_its_wait_has_ended),
    ("settle", "CASE WHEN e.state = 'waiting' THEN 'available' ELSE e.state END", "'available'",
     test_suspend.test_a_finished_execution_stays_finished),
    ("settle", "AND k.seen IS NULL", "",
     test_suspend.test_an_owner_is_told_that_somebody_else_has_settled),
    ("settle", "WHERE e.id = ANY (v_here) AND e.state = 'available'", "WHERE false",
     test_suspend.test_what_is_available_is_announced_again),
    ("settle", "c.id = ANY (v_untold) AND", "c.parent_id = ANY (p_ids) AND",
     test_races_of_waits.test_a_child_ends_while_its_parent_is_being_settled),
    ("settle", "SET awaited = false", "SET awaited = c.awaited",
     test_suspend.test_parents_are_due_until_they_are_told),
    ("settle", "AND s.woke > k.seen", "AND s.woke > 0",
     test_suspend.test_an_owner_is_told_what_it_has_not_seen),
    ("cancel_execution", "WHERE p_children AND", "WHERE",
     test_families.test_children_may_be_left_alone),
    ("cancel_execution", "AND c.parent_key IS NOT NULL", "",
     test_families.test_what_is_not_waited_for_is_not_cancelled),
    ("cancel_execution", "ORDER BY e.id", "ORDER BY e.id DESC", cancelling_in_no_order),
    ("cancel_execution", "WHERE p.id = p_execution_id AND p.finished_at IS NULL", "",
     test_races_of_waits.test_a_cancellation_waits_for_the_end_of_a_parent),
    ("cancel_execution", "(v_more) = 0", "(v_more) = 0 OR cardinality(v_all) > 0",
     test_races_of_waits.test_a_cancellation_waits_for_a_child_that_is_being_invoked),
    ("cancel_execution", "FOR NO KEY UPDATE OF e", "",
     test_races_of_waits.test_a_cancellation_waits_for_a_child_that_is_being_invoked),
]  # fmt: skip


async def caught_by(contract: Contract, db: PostgresHarness) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - pytest's own Failed is none less
        await contract(db)
    state = sqlstate(caught.value) or ""
    assert not state.startswith("42"), f"the mutant is no valid statement: {caught.value}"


@pytest.mark.orphans_expected
@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=[f"{name}-{old[:40]}-{new[:9]}" for name, old, new, _ in MUTANTS]
)
async def test_no_mutant_survives(
    postgres: PostgresHarness,
    mutant: tuple[str, str, str, Contract],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, condition, replacement, contract = mutant
    statement = getattr(sql, name).text
    assert condition in statement
    monkeypatch.setattr(sql, name, text(statement.replace(condition, replacement)))
    await caught_by(contract, postgres)


@pytest.mark.orphans_expected
@pytest.mark.parametrize(
    "mutant", FUNCTIONS, ids=[f"{name}-{old[:40]}-{new[:9]}" for name, old, new, _ in FUNCTIONS]
)
async def test_no_mutant_of_a_function_survives(
    postgres: PostgresHarness, mutant: tuple[str, str, str, Contract]
) -> None:
    name, condition, replacement, contract = mutant
    function = (script_location() / "sql" / f"0001_{name}.sql").read_text(encoding="utf-8")
    assert condition in function
    changed = function.replace(condition, replacement)
    async with postgres.engine.begin() as connection:
        await connection.exec_driver_sql(changed.replace("CREATE FUNC", "CREATE OR REPLACE FUNC"))
    await caught_by(contract, postgres)
