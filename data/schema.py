"""The tables, as migrations that are only ever appended to: a store of any age becomes today's, step by step.

No foreign keys (DuckDB does not check them safely across transactions), no indexes (nothing here is looked up by
one, and they cost more than they save), no UPDATE and no DELETE anywhere: identity and references are checked by the
one writer, and what is current is the latest row. The `standing_` views leave out older revisions, what was withdrawn
or undone, and the labels that only check labelers. One table is different: a draft is no label, so its row is replaced.
"""

from __future__ import annotations

import duckdb

from data.errors import StoreFailed

_FIRST = """
CREATE TABLE users (name VARCHAR, role VARCHAR, pseudonym VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE disabled_users (name VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE passwords (name VARCHAR, hash VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE tokens (hash VARCHAR, name VARCHAR, kind VARCHAR, expires_at TIMESTAMPTZ, created_at TIMESTAMPTZ);
CREATE TABLE spent_tokens (hash VARCHAR, reason VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE outsiders (name VARCHAR, pseudonym VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE prompts (
    number BIGINT, id VARCHAR, messages JSON, tags VARCHAR[], split VARCHAR, source VARCHAR, created_at TIMESTAMPTZ
);
CREATE TABLE responses (
    task_number BIGINT, position INTEGER, id VARCHAR, prompt_id VARCHAR, text VARCHAR, source VARCHAR,
    sampling JSON, created_at TIMESTAMPTZ
);
CREATE TABLE batches (id VARCHAR, checkpoint VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE tasks (
    number BIGINT, id VARCHAR, kind VARCHAR, prompt_id VARCHAR, response_ids VARCHAR[], overlap INTEGER,
    priority BIGINT, batch_id VARCHAR, created_at TIMESTAMPTZ
);
CREATE TABLE retired_batches (batch_id VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE leases (
    token VARCHAR, task_id VARCHAR, labeler VARCHAR, expires_at TIMESTAMPTZ, created_at TIMESTAMPTZ
);
CREATE TABLE skips (task_id VARCHAR, labeler VARCHAR, lease VARCHAR, reason VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE rankings (
    label_id VARCHAR, revision INTEGER, task_id VARCHAR, task_number BIGINT, prompt_id VARCHAR, labeler VARCHAR,
    lease VARCHAR, digest VARCHAR, display_order VARCHAR[], ranks INTEGER[], ratings JSON, flags JSON, rewrite JSON,
    comment VARCHAR, seconds DOUBLE, guideline VARCHAR, source VARCHAR, client_at TIMESTAMPTZ, created_at TIMESTAMPTZ
);
CREATE TABLE demonstrations (
    label_id VARCHAR, revision INTEGER, task_id VARCHAR, prompt_id VARCHAR, labeler VARCHAR, lease VARCHAR,
    digest VARCHAR, response VARCHAR, seconds DOUBLE, guideline VARCHAR, source VARCHAR, client_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ
);
CREATE TABLE withdrawals (label_id VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE checkpoints (
    id VARCHAR, stage VARCHAR, parents VARCHAR[], snapshot VARCHAR, metrics JSON, created_at TIMESTAMPTZ
);
CREATE TABLE checkpoint_states (id VARCHAR, state VARCHAR, reason VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE runs (id VARCHAR, state JSON, created_at TIMESTAMPTZ);
CREATE TABLE audit (action VARCHAR, subject VARCHAR, detail VARCHAR, created_at TIMESTAMPTZ);
CREATE VIEW standing_rankings AS
    SELECT rankings.* FROM rankings
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM rankings GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id);
CREATE VIEW standing_demonstrations AS
    SELECT demonstrations.* FROM demonstrations
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM demonstrations GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id);
"""

_WORKBENCH = """
CREATE TABLE settings (settings JSON, author VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE guidelines (hash VARCHAR, text VARCHAR, author VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE guideline_readings (hash VARCHAR, labeler VARCHAR, created_at TIMESTAMPTZ);
ALTER TABLE tasks ADD COLUMN purpose VARCHAR DEFAULT 'work';
ALTER TABLE tasks ADD COLUMN repeat_of VARCHAR;
ALTER TABLE tasks ADD COLUMN reserved_for VARCHAR;
ALTER TABLE rankings ADD COLUMN purpose VARCHAR DEFAULT 'work';
ALTER TABLE demonstrations ADD COLUMN started_from VARCHAR;
CREATE TABLE gold (task_id VARCHAR, ranks INTEGER[], note VARCHAR, author VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE qualification_scores (task_id VARCHAR, labeler VARCHAR, score DOUBLE, created_at TIMESTAMPTZ);
CREATE TABLE admissions (labeler VARCHAR, author VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE retired_tasks (task_id VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE returned_tasks (task_id VARCHAR, skips INTEGER, created_at TIMESTAMPTZ);
CREATE TABLE undone (label_id VARCHAR, revision INTEGER, expires_at TIMESTAMPTZ, created_at TIMESTAMPTZ);
CREATE TABLE drafts (task_id VARCHAR, labeler VARCHAR, work JSON, seconds DOUBLE, created_at TIMESTAMPTZ);
CREATE VIEW current_rankings AS
    SELECT rankings.* FROM rankings
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM rankings GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN undone USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id);
CREATE OR REPLACE VIEW standing_rankings AS
    SELECT * FROM current_rankings WHERE purpose NOT IN ('gold', 'repeat', 'qualification');
CREATE OR REPLACE VIEW standing_demonstrations AS
    SELECT demonstrations.* FROM demonstrations
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM demonstrations GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN undone USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id);
"""

_CONVERSATIONS = """
CREATE TABLE conversations (id VARCHAR, labeler VARCHAR, key VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE turns (
    conversation_id VARCHAR, key VARCHAR, prompt_id VARCHAR, task_id VARCHAR, created_at TIMESTAMPTZ
);
CREATE TABLE continuations (
    conversation_id VARCHAR, task_id VARCHAR, response_id VARCHAR, created_at TIMESTAMPTZ
);
CREATE TABLE attacks (conversation_id VARCHAR, success INTEGER, created_at TIMESTAMPTZ);
CREATE TABLE ended_conversations (id VARCHAR, created_at TIMESTAMPTZ);
"""

_SOURCES = """
CREATE TABLE sources (name VARCHAR, licence VARCHAR, created_at TIMESTAMPTZ);
CREATE TABLE label_details (label_id VARCHAR, details JSON, created_at TIMESTAMPTZ);
"""

_WITHDRAWN_PROMPTS = """
CREATE TABLE withdrawn_prompts (prompt_id VARCHAR, created_at TIMESTAMPTZ);
CREATE VIEW standing_prompts AS
    SELECT prompts.* FROM prompts ANTI JOIN withdrawn_prompts ON withdrawn_prompts.prompt_id = prompts.id;
CREATE OR REPLACE VIEW current_rankings AS
    SELECT rankings.* FROM rankings
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM rankings GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN undone USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id)
    ANTI JOIN withdrawn_prompts USING (prompt_id);
CREATE OR REPLACE VIEW standing_rankings AS
    SELECT * FROM current_rankings WHERE purpose NOT IN ('gold', 'repeat', 'qualification');
CREATE OR REPLACE VIEW standing_demonstrations AS
    SELECT demonstrations.* FROM demonstrations
    SEMI JOIN (SELECT label_id, max(revision) AS revision FROM demonstrations GROUP BY label_id) latest
        USING (label_id, revision)
    ANTI JOIN undone USING (label_id, revision)
    ANTI JOIN withdrawals USING (label_id)
    ANTI JOIN withdrawn_prompts USING (prompt_id);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _WORKBENCH, _CONVERSATIONS, _SOURCES, _WITHDRAWN_PROMPTS)


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring the tables up to date, all steps or none. Raises StoreFailed for a newer store."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, applied_at TIMESTAMPTZ)")
    found = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    version = found[0] if found else 0
    if version > len(MIGRATIONS):
        raise StoreFailed(
            f"This workspace was made by a newer Pawl (its tables are of version {version}, this one knows "
            f"{len(MIGRATIONS)}). Nothing was changed; install the newer Pawl to open it."
        )
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN")
    try:
        connection.execute("".join(MIGRATIONS[version:]))
        connection.execute(
            f"INSERT INTO schema_version SELECT unnest(range({version + 1}, {len(MIGRATIONS) + 1})), now()"
        )
        connection.execute("COMMIT")
    except duckdb.Error:
        connection.execute("ROLLBACK")
        raise
