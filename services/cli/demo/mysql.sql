-- The demo company's own tables, as an application would have made them: nothing of Subak in here.

-- products: the same range of goods in every shop
CREATE TABLE products (
    id INT NOT NULL PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    price DECIMAL(10,2) NOT NULL CHECK (price > 0),
    photo MEDIUMBLOB
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- stock: what each shop has on its shelves
CREATE TABLE stock (
    shop VARCHAR(32) NOT NULL,
    product_id INT NOT NULL,
    on_hand INT NOT NULL,
    PRIMARY KEY (shop, product_id),
    FOREIGN KEY (product_id) REFERENCES products (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- customers: one card for all shops
CREATE TABLE customers (
    id INT NOT NULL PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    email VARCHAR(100) UNIQUE,
    points INT NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- sales: one receipt each
CREATE TABLE sales (
    receipt VARCHAR(40) NOT NULL PRIMARY KEY,
    shop VARCHAR(32) NOT NULL,
    customer_id INT,
    sold_at DATETIME(6) NOT NULL,
    total DECIMAL(12,2) NOT NULL,
    remark VARCHAR(200),
    FOREIGN KEY (customer_id) REFERENCES customers (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- sale_lines: what was sold
CREATE TABLE sale_lines (
    receipt VARCHAR(40) NOT NULL,
    line INT NOT NULL,
    product_id INT NOT NULL,
    quantity INT NOT NULL,
    price DECIMAL(10,2) NOT NULL,
    PRIMARY KEY (receipt, line),
    FOREIGN KEY (receipt) REFERENCES sales (receipt),
    FOREIGN KEY (product_id) REFERENCES products (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
