import type { Context, Event } from "lagless";

interface Item {
  sku: string;
  /** In euros. */
  price: number;
  quantity: number;
}

interface Order {
  id: string;
  type: "order.placed";
  customer: string;
  /** What has been paid, in euros. */
  amount: number;
  items: Item[];
}

/** What it returns goes to the topic `totals`. Where it throws, it is tried again; at last the order is a dead letter. */
export default function total(event: Event<Order>, ctx: Context) {
  const { id, customer, amount, items } = event.data;
  let cents = 0;
  for (const item of items) {
    if (item.price < 0) {
      throw new RangeError(`the price of ${item.sku} is below zero: ${item.price}`);
    }
    cents += Math.round(item.price * 100) * item.quantity;
  }
  const total = cents / 100;
  if (total !== amount) {
    ctx.log.warn(`${id}: ${amount} paid, ${total} due`);
  }
  return { id, customer, total };
}
