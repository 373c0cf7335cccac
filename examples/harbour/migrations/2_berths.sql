ALTER TABLE ships ADD CONSTRAINT one_ship_a_berth UNIQUE (berth);
UPDATE ships SET berth = 4 WHERE name = 'Boreas';
