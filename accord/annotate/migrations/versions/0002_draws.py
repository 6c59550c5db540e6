"""Items have weights, and how one was drawn is the item's, not a slot's."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("item", sa.Column("weight", sa.Float, nullable=False, server_default="1"))
    op.add_column("item", sa.Column("chosen_by", sa.String, nullable=False, server_default="random"))
    op.add_column("item", sa.Column("probability", sa.Float))
    op.add_column("item", sa.Column("among", sa.Integer))
    drawn = "FROM slot WHERE slot.item_id = item.id AND slot.chosen_by = 'random'"
    op.execute(f"UPDATE item SET probability = (SELECT min(slot.probability) {drawn}) WHERE gold IS NULL")
    # Where the first slot was taken over its draw was written over, and the item counts as the only one there was.
    begun = "EXISTS (SELECT 1 FROM slot WHERE slot.item_id = item.id AND slot.annotator_id IS NOT NULL)"
    op.execute(f"UPDATE item SET probability = 1 WHERE probability IS NULL AND gold IS NULL AND {begun}")
    op.execute("UPDATE item SET among = round(1 / probability) WHERE probability IS NOT NULL")
    op.drop_column("slot", "chosen_by")
    op.drop_column("slot", "probability")


def downgrade() -> None:
    op.add_column("slot", sa.Column("chosen_by", sa.String, nullable=False, server_default=""))
    op.add_column("slot", sa.Column("probability", sa.Float))
    for name in ("weight", "chosen_by", "probability", "among"):
        op.drop_column("item", name)
