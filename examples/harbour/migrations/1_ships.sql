CREATE TABLE ships (id int PRIMARY KEY, name text NOT NULL, berth int);
INSERT INTO ships VALUES (1, 'Aurora', 3), (2, 'Boreas', NULL);
