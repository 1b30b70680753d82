-- The demo company's own tables, as an application would have made them: nothing of Subak in here.

-- products: the same range of goods in every shop
CREATE TABLE products (
    id INT NOT NULL PRIMARY KEY,
    name NVARCHAR(100) NOT NULL,
    price DECIMAL(10,2) NOT NULL CHECK (price > 0),
    photo VARBINARY(MAX)
);

-- stock: what each shop has on its shelves
CREATE TABLE stock (
    shop NVARCHAR(32) NOT NULL,
    product_id INT NOT NULL REFERENCES products (id),
    on_hand INT NOT NULL,
    PRIMARY KEY (shop, product_id)
);

-- customers: one card for all shops
CREATE TABLE customers (
    id INT NOT NULL PRIMARY KEY,
    name NVARCHAR(100) NOT NULL,
    email NVARCHAR(100),
    points INT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX customers_email ON customers (email) WHERE email IS NOT NULL;

-- sales: one receipt each
CREATE TABLE sales (
    receipt NVARCHAR(40) NOT NULL PRIMARY KEY,
    shop NVARCHAR(32) NOT NULL,
    customer_id INT REFERENCES customers (id),
    sold_at DATETIME2(6) NOT NULL,
    total DECIMAL(12,2) NOT NULL,
    remark NVARCHAR(200)
);

-- sale_lines: what was sold
CREATE TABLE sale_lines (
    receipt NVARCHAR(40) NOT NULL REFERENCES sales (receipt),
    line INT NOT NULL,
    product_id INT NOT NULL REFERENCES products (id),
    quantity INT NOT NULL,
    price DECIMAL(10,2) NOT NULL,
    PRIMARY KEY (receipt, line)
);
