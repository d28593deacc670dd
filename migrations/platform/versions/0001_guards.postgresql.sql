CREATE OR REPLACE FUNCTION entries_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger entries are never changed; post a new one'
        USING ERRCODE = 'restrict_violation';
END $$

CREATE TRIGGER entries_no_change BEFORE UPDATE OR DELETE ON entries
FOR EACH ROW EXECUTE FUNCTION entries_refuse()

CREATE TRIGGER entries_no_truncate BEFORE TRUNCATE ON entries
FOR EACH STATEMENT EXECUTE FUNCTION entries_refuse()

CREATE OR REPLACE FUNCTION earnings_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an earning that is posted is never changed or deleted; record what took it back'
        USING ERRCODE = 'restrict_violation';
END $$

CREATE TRIGGER earnings_no_change BEFORE UPDATE OR DELETE ON earnings
FOR EACH ROW WHEN (OLD.posted) EXECUTE FUNCTION earnings_refuse()

CREATE TRIGGER earnings_no_truncate BEFORE TRUNCATE ON earnings
FOR EACH STATEMENT EXECUTE FUNCTION earnings_refuse()

CREATE OR REPLACE FUNCTION payouts_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a payout is never deleted; its creator, currency, amount and destination never change'
        USING ERRCODE = 'restrict_violation';
END $$

CREATE TRIGGER payouts_pinned BEFORE UPDATE OF creator_id, currency, amount, destination ON payouts
FOR EACH ROW WHEN (OLD.creator_id IS DISTINCT FROM NEW.creator_id
    OR OLD.currency IS DISTINCT FROM NEW.currency
    OR OLD.amount IS DISTINCT FROM NEW.amount
    OR OLD.destination IS DISTINCT FROM NEW.destination)
EXECUTE FUNCTION payouts_refuse()

CREATE TRIGGER payouts_kept BEFORE DELETE OR TRUNCATE ON payouts
FOR EACH STATEMENT EXECUTE FUNCTION payouts_refuse()

CREATE OR REPLACE FUNCTION earnings_dirty_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dirty_days (day, mark)
    SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date, pg_current_xact_id()::text::bigint
    FROM changed
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$

CREATE TRIGGER earnings_dirty_insert AFTER INSERT ON earnings
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION earnings_dirty_insert()

CREATE OR REPLACE FUNCTION earnings_dirty_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dirty_days (day, mark)
    SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date, pg_current_xact_id()::text::bigint
    FROM changed
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$

CREATE TRIGGER earnings_dirty_delete AFTER DELETE ON earnings
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION earnings_dirty_delete()

CREATE OR REPLACE FUNCTION earnings_dirty_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dirty_days (day, mark)
    SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date, pg_current_xact_id()::text::bigint
    FROM (SELECT OLD.* UNION ALL SELECT NEW.*) AS changed
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$

CREATE TRIGGER earnings_dirty_update AFTER
    UPDATE OF creator_id, source, kind, currency, gross, fee, occurred_at ON earnings
FOR EACH ROW EXECUTE FUNCTION earnings_dirty_update()

CREATE VIEW monthly_earnings AS
SELECT CAST(date_trunc('month', day) AS DATE) AS month, creator_id, currency, source,
    CAST(SUM(gross) AS BIGINT) AS gross,
    CAST(SUM(refunds) AS BIGINT) AS refunds,
    CAST(SUM(fees) AS BIGINT) AS fees,
    CAST(SUM(net) AS BIGINT) AS net,
    CAST(SUM(count) AS BIGINT) AS count
FROM daily_earnings
GROUP BY 1, creator_id, currency, source

CREATE VIEW lifetime_earnings AS
SELECT creator_id, currency,
    CAST(SUM(gross) AS BIGINT) AS gross,
    CAST(SUM(refunds) AS BIGINT) AS refunds,
    CAST(SUM(fees) AS BIGINT) AS fees,
    CAST(SUM(net) AS BIGINT) AS net,
    CAST(SUM(count) AS BIGINT) AS count
FROM daily_earnings
GROUP BY creator_id, currency

CREATE VIEW platform_days AS
SELECT day, currency, source,
    CAST(SUM(gross) AS BIGINT) AS gross,
    CAST(SUM(refunds) AS BIGINT) AS refunds,
    CAST(SUM(fees) AS BIGINT) AS fees,
    CAST(SUM(net) AS BIGINT) AS net,
    CAST(SUM(count) AS BIGINT) AS count,
    COUNT(*) AS creators
FROM daily_earnings
GROUP BY day, currency, source
