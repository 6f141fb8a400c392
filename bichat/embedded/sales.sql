create table regions (
  id integer primary key,
  name text not null unique,
  manager text not null);
comment on table regions is 'The sales regions of a wholesaler of coffee and what belongs to it';
comment on column regions.manager is 'Who answers for the region''s figures';

create table customers (
  id integer primary key,
  name text not null,
  region_id integer not null references regions,
  city text not null,
  segment text not null,
  since date not null);
comment on table customers is 'Companies that order';
comment on column customers.segment is 'cafe, office, hotel or retail';
comment on column customers.since is 'When they became a customer';

create table products (
  id integer primary key,
  name text not null unique,
  category text not null,
  price numeric(8, 2) not null,
  cost numeric(8, 2) not null);
comment on table products is 'What is sold';
comment on column products.category is 'beans, machines, accessories or service';
comment on column products.price is 'List price today, in euros without tax';
comment on column products.cost is 'What the company pays for it, in euros';

create table orders (
  id integer primary key,
  customer_id integer not null references customers,
  ordered_on date not null,
  channel text not null,
  status text not null);
comment on table orders is 'Orders of the last three years; what was ordered is in order_items';
comment on column orders.channel is 'web, phone or visit';
comment on column orders.status is 'open, delivered, returned or cancelled; cancelled and returned orders bring no revenue';
create index on orders (ordered_on);
create index on orders (customer_id);

create table order_items (
  order_id integer not null references orders,
  position integer not null,
  product_id integer not null references products,
  quantity integer not null check (quantity > 0),
  unit_price numeric(8, 2) not null,
  discount numeric(3, 2) not null,
  primary key (order_id, position));
comment on table order_items is 'The lines of orders';
comment on column order_items.unit_price is 'The price of one at that time, in euros without tax, before the discount';
comment on column order_items.discount is 'A share: 0.10 is ten percent';
create index on order_items (product_id);

create view sales as
select
  o.id as order_id, o.ordered_on, o.channel, r.name as region, c.name as customer, c.segment,
  p.name as product, p.category, i.quantity,
  round(i.quantity * i.unit_price * (1 - i.discount), 2) as revenue,
  round(i.quantity * (i.unit_price * (1 - i.discount) - p.cost), 2) as margin
from order_items i
join orders o on o.id = i.order_id
join customers c on c.id = o.customer_id
join regions r on r.id = c.region_id
join products p on p.id = i.product_id
where o.status in ('open', 'delivered');
comment on view sales is 'What was sold: a line for each line of an order that was neither cancelled nor returned';
comment on column sales.revenue is 'In euros without tax, after the discount';
comment on column sales.margin is 'Revenue less what the goods cost';
