import type { Event } from "lagless";

interface Order {
  id: string;
}

/** What the audit keeps of an order. */
export default function (event: Event<Order>) {
  return {
    order: event.data.id,
    message: event.id,
    routing_key: event.properties?.routing_key,
    time: event.time,
  };
}
