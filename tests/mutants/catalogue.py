"""The mutants: each breaks one invariant of the design, as a careless change would."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.stack.sql_server import MSSQL_URL

CONTROL = Mutant(
    "control: a process started by a test runs the mutated tree",
    "services/hub/__main__.py",
    "from __future__ import annotations\n",
    'from __future__ import annotations\n\nraise RuntimeError("mutated")\n',
    ("tests/system/test_start.py::test_the_hub_tells_all_faults_at_once",),
)

ACKNOWLEDGED = (
    Mutant(
        "the applier says executed before the commit",
        "services/applier/receiving.py",
        """\
            for (delivery, _), outcome in zip(group, await asyncio.to_thread(self._apply, group), strict=False):
                await channel.send(Executed(delivery.sequence, outcome.conflicts, outcome.quarantined, outcome.told))
""",
        """\
            for delivery, _ in group:
                await channel.send(Executed(delivery.sequence, 0, []))
            for (delivery, _), outcome in zip(group, await asyncio.to_thread(self._apply, group), strict=False):
""",
        ("tests/unit/test_applier_receiving.py",),
    ),
    Mutant(
        "the hub says stored before the commit",
        "services/hub/receiving.py",
        """\
        stored.add_done_callback(lambda _: self._connection.wake.set())
        self._due.append((batch, stored))
""",
        """\
        early: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        early.set_result(0)
        self._due.append((batch, early))
        self._connection.wake.set()
""",
        ("tests/unit/test_hub_receiving.py",),
    ),
    Mutant(
        "capture marks what it has sent, before it is stored",
        "services/capture/sending.py",
        """\
        reach("capture.after_send")
""",
        """\
        reach("capture.after_send")
        self._confirmed = header.number
        self._confirmation.set()
""",
        (
            "tests/contract/test_capture_sending.py::"
            "test_nothing_is_marked_before_it_is_confirmed_and_a_window_is_in_flight[sqlite]",
        ),
    ),
)

WATERMARK = (
    Mutant(
        "capture takes every row up to the greatest id into the batch",
        "services/capture/storing.py",
        """\
        which = column.between(some[0], some[-1]) if consecutive(some) else column.in_(some)
        marked = connection.execute(
            update(CLOUD_QUERY).where(which, CLOUD_QUERY.c.BatchNumber.is_(None)).values(BatchNumber=number)
        )
        if marked.rowcount != len(some):
            raise state.another_capture()
""",
        """\
        connection.execute(
            update(CLOUD_QUERY)
            .where(column <= some[-1], CLOUD_QUERY.c.BatchNumber.is_(None))
            .values(BatchNumber=number)
        )
""",
        (
            "tests/contract/test_capture_cutting.py::test_a_smaller_id_that_becomes_visible_while_a_batch_is_cut_is_not_taken_with_it[mariadb]",
        ),
    ),
    Mutant(
        "capture marks every row up to the greatest id of what was stored",
        "services/capture/storing.py",
        """\
        .where(CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.in_(numbers))
        .values(ExportFlag=1)
""",
        """\
        .where(
            CLOUD_QUERY.c.Id
            <= (connection.scalar(select(CLOUD_QUERY.c.Id).order_by(CLOUD_QUERY.c.Id.desc()).limit(1)) or 0)
        )
        .values(ExportFlag=1)
""",
        (
            "tests/contract/test_capture_cutting.py::"
            "test_marks_exactly_the_rows_of_the_batches_that_were_stored[sqlite]",
        ),
    ),
)

ONCE = (
    Mutant(
        "the ledger is written outside of the transaction",
        "services/applier/recording.py",
        """\
    connection.execute(
        sa.insert(LEDGER).values(
""",
        """\
    connection.engine.connect().execution_options(isolation_level="AUTOCOMMIT").execute(
        sa.insert(LEDGER).values(
""",
        ("tests/contract/test_applier.py::test_what_ends_before_the_commit_leaves_neither_rows_nor_ledger[mariadb]",),
    ),
    Mutant(
        "what a database that was put back has already counts again",
        "services/applier/containing.py",
        """\
                if name in wanted and lives.may_be(row.Id, origin):
""",
        """\
                if name not in wanted:
""",
        (
            "tests/contract/test_put_back.py::"
            "test_a_change_that_is_here_is_passed_over_and_the_others_are_applied[sqlite]",
        ),
    ),
    Mutant(
        "a purge takes the batch away that quarantine needs",
        "services/applier/purging.py",
        ".where(LEDGER.c.Sequence.not_in(needed), sa.or_(",
        ".where(LEDGER.c.Sequence > 0, sa.or_(",
        ("tests/contract/test_purging.py::test_what_waits_in_quarantine_keeps_its_batch[sqlite]",),
    ),
    Mutant(
        "a purge takes a later delete's tombstone",
        "services/applier/purging.py",
        "if wanted.get(row.RowId) == Stamp(row.Stamp, row.Origin)",
        "if row.RowId in wanted",
        ("tests/contract/test_purging.py::test_a_tombstone_of_a_later_delete_stays[sqlite]",),
    ),
    Mutant(
        "what the ledger has is applied again",
        "services/applier/applying.py",
        """\
        if sequence == delivery.sequence:
            return True
""",
        """\
        if sequence == delivery.sequence:
            connection.execute(sa.delete(LEDGER).where(named))
            return False
""",
        ("tests/contract/test_applier.py::test_once[sqlite]",),
    ),
)

STAMPS = (
    Mutant(
        "a stamp is the clock's, not at least the old one and 1 (MySQL, MariaDB)",
        "sql/outlet/mysql/trigger_update.sql",
        """\
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            LastImage = IF(""",
        """\
            Stamp = v_now, Origin = {{outlet}},
            LastImage = IF(""",
        ("tests/contract/test_triggers.py::test_a_stamp_beats_what_it_overwrites_whatever_the_clock_says[mariadb]",),
    ),
    Mutant(
        "a stamp is the clock's, not at least the old one and 1 (SQLite)",
        "sql/outlet/sqlite/trigger_update.sql",
        "Stamp = max({{now}}, Stamp + 1)",
        "Stamp = {{now}}",
        ("tests/contract/test_triggers.py::test_a_stamp_beats_what_it_overwrites_whatever_the_clock_says[sqlite]",),
    ),
    Mutant(
        "the trigger notes the base after it has written over it",
        "sql/outlet/mysql/trigger_update.sql",
        """\
            BaseStamp = Stamp, BaseOrigin = Origin,
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            LastImage = IF(""",
        """\
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            BaseStamp = Stamp, BaseOrigin = Origin,
            LastImage = IF(""",
        ("tests/contract/test_triggers_mysql.py::test_the_base_is_what_is_committed_not_what_the_snapshot_shows",),
    ),
    Mutant(
        "the applier reads versions from its transaction's snapshot",
        "services/kernel/dialects/mysql/connecting.py",
        'isolation_level="REPEATABLE READ" if purpose is Purpose.READ else "READ COMMITTED"',
        'isolation_level="REPEATABLE READ"',
        (
            "tests/contract/test_applier.py::"
            "test_a_local_write_just_before_the_row_is_locked_waits_for_nothing_and_is_seen",
        ),
    ),
    Mutant(
        "a tombstone is dropped at once: the version of a deleted row is not kept",
        "services/applier/store.py",
        """\
            for row, (table, version) in plan.versions.items()
        ]
""",
        """\
            for row, (table, version) in plan.versions.items()
            if not version.deleted
        ]
""",
        (
            "tests/contract/test_applier.py::test_an_older_change_that_comes_late_does_not_bring_a_deleted_row_back[sqlite]",
        ),
    ),
    Mutant(
        "an earlier change wins over a later one",
        "services/applier/deciding.py",
        "    if change.stamp <= local:\n",
        "    if change.stamp == local:\n",
        ("tests/contract/test_applier.py::test_the_later_of_two_wins_and_leaves_a_trace[sqlite]",),
    ),
)

LOCKS = (
    Mutant(
        "the version is locked before the data",
        "services/applier/store.py",
        """\
        self._lock(changed, share=False)
        self._lock(parents, share=True)
        self._read_versions(changed)
""",
        """\
        self._read_versions(changed, lock=True)
        self._lock(changed, share=False)
        self._lock(parents, share=True)
""",
        (
            "tests/contract/test_applier.py::"
            "test_a_local_write_just_before_the_row_is_locked_waits_for_nothing_and_is_seen",
        ),
    ),
    Mutant(
        "the version is read before the data is locked",
        "services/applier/store.py",
        """\
        self._lock(changed, share=False)
        self._lock(parents, share=True)
        self._read_versions(changed)
""",
        """\
        self._read_versions(changed)
        self._lock(changed, share=False)
        self._lock(parents, share=True)
""",
        (
            "tests/contract/test_applier.py::"
            "test_a_local_write_just_before_the_row_is_locked_waits_for_nothing_and_is_seen",
        ),
    ),
)

MARKS = (
    Mutant(
        "the applier's mark is committed with its transaction (SQLite)",
        "services/kernel/dialects/sqlite/connecting.py",
        'connection.exec_driver_sql("DELETE FROM subak_mark")',
        "return",
        ("tests/contract/test_triggers_sqlite.py::test_the_mark_is_never_committed",),
    ),
    Mutant(
        "connections that do not apply are marked too (MySQL, MariaDB)",
        "services/kernel/dialects/mysql/connecting.py",
        """\
    if purpose is Purpose.APPLY:
        settings.append(""",
        """\
    if purpose is not Purpose.READ:
        settings.append(""",
        ("tests/contract/test_errors.py::test_the_applier_is_marked_and_nobody_else[mariadb]",),
    ),
    Mutant(
        "the applier is not marked (MySQL, MariaDB)",
        "services/kernel/dialects/mysql/connecting.py",
        "SET @subak_applier = 1",
        "SET @subak_applier = 0",
        ("tests/contract/test_applier.py::test_nothing_applied_is_captured[mariadb]",),
    ),
    Mutant(
        "a session that goes back to the pool keeps its mark (SQL Server)",
        "services/kernel/dialects/mssql/connecting.py",
        'cursor.execute(f"SET CONTEXT_INFO {NO_MARK}")',
        'cursor.execute(f"SET CONTEXT_INFO {MARK}")',
        ("tests/contract/test_triggers_mssql.py::test_a_session_in_the_pool_is_nobodys",),
        MSSQL_URL,
    ),
)

ORDER = (
    Mutant(
        "deliveries leave the hub in another order than it stored them",
        "services/hub/delivering.py",
        "        .order_by(DELIVERY.c.Sequence)\n",
        "        .order_by(DELIVERY.c.Sequence.desc())\n",
        ("tests/contract/test_hub_queue.py::test_a_group_numbers_in_order_and_names_predecessors_per_outlet[sqlite]",),
    ),
    Mutant(
        "an applier takes a delivery whose predecessor it never had",
        "services/applier/applying.py",
        "        if last != delivery.previous_sequence:\n",
        "        if last > delivery.sequence:\n",
        ("tests/contract/test_applier.py::test_a_gap_is_refused[sqlite]",),
    ),
    Mutant(
        "a damaged batch is applied",
        "services/applier/applying.py",
        "    if digest(batch, delivery.previous, body) != delivery.digest:\n",
        "    if not digest(batch, delivery.previous, body):\n",
        ("tests/contract/test_applier.py::test_a_gap_is_refused[sqlite]",),
    ),
    Mutant(
        "a change comes back to the outlet that made it",
        "services/hub/storing.py",
        "            if outlet != origin and (outlet, origin) not in self._ignored:\n",
        "            if (outlet, origin) not in self._ignored:\n",
        ("tests/contract/test_hub_queue.py::test_a_batch_is_owed_to_every_other_outlet_once[sqlite]",),
    ),
)

SIMULATION = ("tests/unit/test_simulation.py::test_many_seeds",)

RULES = (
    Mutant(
        "an insert adds its value, not what it differs by from the tombstone",
        "services/applier/merging.py",
        "_number(after[name]) - _number(before.get(name))",
        "_number(after[name])",
        SIMULATION,
    ),
    Mutant(
        "a column is taken from whoever comes last",
        "services/applier/merging.py",
        "winning = [name for name in columns if change.stamp > stamps.at(name)]",
        "winning = list(columns)",
        SIMULATION,
    ),
    Mutant(
        "what was written here since is not known of a row's columns",
        "services/applier/judging.py",
        "made = seen.made(table, row, version)",
        "made = ()",
        SIMULATION,
    ),
    Mutant(
        "a change is decided by the newest rules, not by those it was made under",
        "services/kernel/policy.py",
        "later = [one for one in self._given if one.generation >= generation]",
        "later = self._given[-1:]",
        SIMULATION,
    ),
    Mutant(
        "a parent that is put back adds its sum once more",
        "services/applier/planning.py",
        "Change(table.name, Op.INSERT, row.key, text, text, stamp, over)",
        "Change(table.name, Op.INSERT, row.key, None, text, stamp, over)",
        SIMULATION,
    ),
)

CERTIFICATES = ("tests/unit/test_certificates.py",)

TRUST = (
    Mutant(
        "whoever is revoked gets in",
        "services/kernel/certificates.py",
        "    if revoked is not None:\n",
        "    if revoked is not None and peer.name is None:\n",
        CERTIFICATES,
    ),
    Mutant(
        "an outlet may show a hub's certificate",
        "services/kernel/certificates.py",
        "    if units & set(Side) and side not in units:\n",
        "    if False:\n",
        CERTIFICATES,
    ),
    Mutant(
        "a connection that stands is not looked at again",
        "services/hub/broker.py",
        "                    connection.end(distrusted)\n",
        "                    pass\n",
        (
            "tests/system/test_certificates.py::test_revoked_while_connected_then_with_a_new_one_without_a_restart",
            "tests/system/test_certificates.py::test_expired_while_connected_and_renewed_before_that",
        ),
    ),
    Mutant(
        "a renewal gives a new key while the old certificate is in use",
        "services/kernel/authority.py",
        """\
        if standing is not None and not self._is_revoked(standing):
            return key_in(path)
""",
        "",
        ("tests/unit/test_authority.py",),
    ),
)

MUTANTS = (CONTROL, *ACKNOWLEDGED, *WATERMARK, *ONCE, *STAMPS, *LOCKS, *MARKS, *ORDER, *RULES, *TRUST)
