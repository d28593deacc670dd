CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are never changed; post a new one');
END

CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are never changed; post a new one');
END

CREATE TRIGGER earnings_no_update BEFORE UPDATE ON earnings
WHEN OLD.posted
BEGIN
    SELECT RAISE(ABORT, 'an earning that is posted is never changed or deleted; record what took it back');
END

CREATE TRIGGER earnings_no_delete BEFORE DELETE ON earnings
WHEN OLD.posted
BEGIN
    SELECT RAISE(ABORT, 'an earning that is posted is never changed or deleted; record what took it back');
END

CREATE TRIGGER payouts_pinned BEFORE UPDATE OF creator_id, currency, amount, destination ON payouts
WHEN OLD.creator_id IS NOT NEW.creator_id
    OR OLD.currency IS NOT NEW.currency
    OR OLD.amount IS NOT NEW.amount
    OR OLD.destination IS NOT NEW.destination
BEGIN
    SELECT RAISE(ABORT, 'a payout is never deleted; its creator, currency, amount and destination never change');
END

CREATE TRIGGER payouts_kept BEFORE DELETE ON payouts
BEGIN
    SELECT RAISE(ABORT, 'a payout is never deleted; its creator, currency, amount and destination never change');
END

CREATE TRIGGER earnings_dirty_insert AFTER INSERT ON earnings
BEGIN
    INSERT OR IGNORE INTO dirty_days (day, mark) VALUES (date(NEW.occurred_at), 0);
END

CREATE TRIGGER earnings_dirty_delete AFTER DELETE ON earnings
BEGIN
    INSERT OR IGNORE INTO dirty_days (day, mark) VALUES (date(OLD.occurred_at), 0);
END

CREATE TRIGGER earnings_dirty_update AFTER
    UPDATE OF creator_id, source, kind, currency, gross, fee, occurred_at ON earnings
BEGIN
    INSERT OR IGNORE INTO dirty_days (day, mark) VALUES (date(OLD.occurred_at), 0);
    INSERT OR IGNORE INTO dirty_days (day, mark) VALUES (date(NEW.occurred_at), 0);
END

CREATE VIEW monthly_earnings AS
SELECT date(day, 'start of month') AS month, creator_id, currency, source,
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
