let sum = 0;

/** The function under measurement: the same text runs in Node. */
export default async function handler(e: { data: { amount: number; seq: number } }) {
  sum += e.data.amount + e.data.seq;
}
