/** Says that an event has been handled. */
export default function handler(e: { data: { amount: number; seq: number } }) {
  return e.data.amount + e.data.seq;
}
