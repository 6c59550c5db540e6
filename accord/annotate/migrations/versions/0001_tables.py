"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = lambda: sa.Column("id", sa.Integer, primary_key=True)  # noqa: E731
    of = lambda table, **more: sa.Column(f"{table}_id", sa.Integer, sa.ForeignKey(f"{table}.id"), **more)  # noqa: E731
    op.create_table(
        "settings",
        key(),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("reserve_seconds", sa.Float, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("owner_hash", sa.String, nullable=False),
    )
    op.create_table(
        "guideline",
        key(),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "item",
        key(),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("gold", sa.JSON),
        sa.Column("position", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "annotator",
        key(),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("token_hash", sa.String, nullable=False, unique=True),
        sa.Column("keys", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
        sa.Column("withdrawn_at", sa.Float),
    )
    op.create_table(
        "slot",
        key(),
        of("item", nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        of("annotator", index=True),
        sa.Column("reserved_at", sa.Float),
        sa.Column("expires_at", sa.Float),
        sa.Column("shown", sa.JSON, nullable=False),
        of("guideline"),
        sa.Column("chosen_by", sa.String, nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("draft", sa.JSON),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.UniqueConstraint("item_id", "number"),
        sa.UniqueConstraint("item_id", "annotator_id"),
    )
    op.create_index("ix_slot_next", "slot", ["done", "position", "number"])
    op.create_table(
        "skip",
        key(),
        of("item", nullable=False),
        of("annotator", nullable=False),
        sa.UniqueConstraint("item_id", "annotator_id"),
    )
    op.create_table(
        "answer",
        key(),
        of("slot", nullable=False, index=True),
        of("annotator", nullable=False, index=True),
        sa.Column("content", sa.JSON),
        sa.Column("shown", sa.JSON, nullable=False),
        of("guideline"),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("replaced_by", sa.Integer, sa.ForeignKey("answer.id")),
    )
