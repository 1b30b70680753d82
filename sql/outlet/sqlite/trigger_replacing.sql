-- Before an INSERT or UPDATE that would collide with other rows: notes those rows in subak_replaced. Should the statement say
-- OR REPLACE, SQLite deletes them without firing a DELETE trigger, and the AFTER trigger makes the deletions known from these
-- notes (replaced_rows.sql). Of any other statement the notes mean nothing: they are undone with it or overwritten later.
--
-- For the DBA: costs one look-up per unique index, and writes nothing unless there is a collision.

CREATE TRIGGER {{trigger}} BEFORE {{event}} ON {{table}}
WHEN NOT EXISTS (SELECT 1 FROM subak_mark) AND ({{collides}})
BEGIN
    DELETE FROM subak_replaced WHERE TableName = {{table_name}} AND Cause IN ({{causes}});

    INSERT INTO subak_replaced (TableName, Cause, RowKey, KeyValues, Image)
    SELECT {{table_name}}, c.Cause, c.RowKey, c.KeyValues, c.Image
    FROM ({{candidates}}) AS c;
END
