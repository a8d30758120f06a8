-- Invariant 3: only an operator says that a target's quotes can be trusted again.
DELETE FROM target_overrun WHERE target = $1 RETURNING target;
