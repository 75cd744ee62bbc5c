-- A day in the shop: three orders are placed and two shipped, one customer moves, one price
-- rises. Every run is another day.
INSERT INTO orders
SELECT (SELECT max(id) FROM orders) + line, line * 11, 'placed',
       (SELECT strftime('%Y-%m-%d %H:%M:%S', max(updated_at), '+' || line || ' hours') FROM orders)
FROM (SELECT 1 AS line UNION ALL SELECT 2 UNION ALL SELECT 3);
INSERT INTO order_items
SELECT (SELECT max(id) FROM orders) - 3 + line, 1, printf('SKU-%03d', line * 7), line
FROM (SELECT 1 AS line UNION ALL SELECT 2 UNION ALL SELECT 3);
UPDATE orders
SET status = 'shipped',
    updated_at = (SELECT strftime('%Y-%m-%d %H:%M:%S', max(updated_at), '+1 hours') FROM orders)
WHERE id IN (SELECT id FROM orders WHERE status = 'paid' ORDER BY id DESC LIMIT 2);
UPDATE customers
SET city = 'Paris',
    updated_at = (SELECT strftime('%Y-%m-%d %H:%M:%S', max(updated_at), '+1 days') FROM customers)
WHERE id = (SELECT id FROM customers WHERE city <> 'Paris' ORDER BY id LIMIT 1);
UPDATE products SET price_cents = price_cents + 10 WHERE sku = 'SKU-001';
