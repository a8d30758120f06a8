-- Whether this store has ever been migrated. Who may only read and write rows need not be allowed to create any.
SELECT to_regclass('spendfuse.migration') IS NOT NULL;
