-- The statements of the shops' application. It knows nothing of Subak.

-- count_products: none before the opening
SELECT COUNT(*) FROM products;

-- add_product: at the opening
INSERT INTO products (id, name, price, photo) VALUES (?, ?, ?, ?);

-- add_stock: at the opening
INSERT INTO stock (shop, product_id, on_hand) VALUES (?, ?, ?);

-- add_customer: a new card
INSERT INTO customers (id, name, email, points) VALUES (?, ?, ?, ?);

-- price_of: as it is here and now
SELECT price FROM products WHERE id = ?;

-- open_sale: a receipt begins
INSERT INTO sales (receipt, shop, customer_id, sold_at, total, remark) VALUES (?, ?, ?, ?, 0, ?);

-- add_line: one line of it
INSERT INTO sale_lines (receipt, line, product_id, quantity, price) VALUES (?, ?, ?, ?, ?);

-- take_stock: from the shelf, or back on it
UPDATE stock SET on_hand = on_hand - ? WHERE shop = ? AND product_id = ?;

-- close_sale: the receipt's total
UPDATE sales SET total = ? WHERE receipt = ?;

-- give_points: on the customer's card
UPDATE customers SET points = points + ? WHERE id = ?;

-- lines_of: to cancel a sale
SELECT product_id, quantity FROM sale_lines WHERE receipt = ?;

-- drop_lines: of a cancelled sale
DELETE FROM sale_lines WHERE receipt = ?;

-- drop_sale: which was cancelled
DELETE FROM sales WHERE receipt = ?;

-- set_price: what head office, or somebody, decided
UPDATE products SET price = ? WHERE id = ?;

-- set_photo: a new picture
UPDATE products SET photo = ? WHERE id = ?;

-- last_receipt: of a till that is switched on again
SELECT MAX(receipt) FROM sales WHERE receipt LIKE ?;

-- last_customer: with a card of that till
SELECT MAX(id) FROM customers WHERE id BETWEEN ? AND ?;
