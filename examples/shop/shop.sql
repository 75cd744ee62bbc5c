-- A small shop, the same on every machine: 200 customers, 40 products, 2,000 orders, 5,000 lines.
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    city TEXT NOT NULL,
    updated_at TIMESTAMP NOT NULL
);
CREATE TABLE products (
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    price_cents INTEGER NOT NULL
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    status TEXT NOT NULL,
    updated_at TIMESTAMP NOT NULL
);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id),
    line INTEGER NOT NULL,
    sku TEXT NOT NULL REFERENCES products (sku),
    quantity INTEGER NOT NULL,
    PRIMARY KEY (order_id, line)
);
-- With an index, a sync finds what changed without reading the whole table.
CREATE INDEX customers_updated_at ON customers (updated_at);
CREATE INDEX orders_updated_at ON orders (updated_at);

WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
INSERT INTO customers
SELECT i, 'Customer ' || i,
       CASE i % 5 WHEN 0 THEN 'Lisbon' WHEN 1 THEN 'Oslo' WHEN 2 THEN 'Vienna'
                  WHEN 3 THEN 'Porto' ELSE 'Ghent' END,
       strftime('%Y-%m-%d %H:%M:%S', '2026-01-01', '+' || i || ' hours')
FROM n;

WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
INSERT INTO products
SELECT printf('SKU-%03d', i), 'Product ' || i, 100 + (i * 37) % 900 FROM n;

WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
INSERT INTO orders
SELECT i, 1 + (i * 7) % 200,
       CASE i % 4 WHEN 0 THEN 'placed' WHEN 1 THEN 'paid' WHEN 2 THEN 'shipped' ELSE 'closed' END,
       strftime('%Y-%m-%d %H:%M:%S', '2026-02-01', '+' || (i * 10) || ' minutes')
FROM n;

WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4999)
INSERT INTO order_items
SELECT 1 + i % 2000, 1 + i / 2000, printf('SKU-%03d', 1 + (i * 11) % 40), 1 + i % 3 FROM n;
