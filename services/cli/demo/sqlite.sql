-- The demo company's own tables, as an application would have made them: nothing of Subak in here.

-- products: the same range of goods in every shop
CREATE TABLE products (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    price DECIMAL(10,2) NOT NULL CHECK (price > 0),
    photo BLOB
);

-- stock: what each shop has on its shelves
CREATE TABLE stock (
    shop TEXT NOT NULL,
    product_id INTEGER NOT NULL REFERENCES products (id),
    on_hand INTEGER NOT NULL,
    PRIMARY KEY (shop, product_id)
);

-- customers: one card for all shops
CREATE TABLE customers (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT UNIQUE,
    points INTEGER NOT NULL DEFAULT 0
);

-- sales: one receipt each
CREATE TABLE sales (
    receipt TEXT NOT NULL PRIMARY KEY,
    shop TEXT NOT NULL,
    customer_id INTEGER REFERENCES customers (id),
    sold_at DATETIME NOT NULL,
    total DECIMAL(12,2) NOT NULL,
    remark TEXT
);

-- sale_lines: what was sold
CREATE TABLE sale_lines (
    receipt TEXT NOT NULL REFERENCES sales (receipt),
    line INTEGER NOT NULL,
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL,
    price DECIMAL(10,2) NOT NULL,
    PRIMARY KEY (receipt, line)
);
