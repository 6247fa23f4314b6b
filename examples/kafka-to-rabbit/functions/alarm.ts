import type { Event } from "lagless";

interface Reading {
  sensor: string;
  celsius: number;
}

/** Puts a reading into words. */
export default function (event: Event<Reading>) {
  const { sensor, celsius } = event.data;
  if (!sensor) {
    throw new Error("a reading without a sensor");
  }
  return { sensor, text: `${sensor} is at ${celsius} degrees`, time: event.time };
}
