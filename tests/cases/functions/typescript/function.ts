import { Colour, type Named, label } from "./colours.ts";

enum Size {
  Small = 1,
  Large,
}

class Box<T extends Named> {
  constructor(private readonly thing: T, public size: Size = Size.Large) {}

  get text(): string {
    return `${label(this.thing)} ${Size[this.size]}`;
  }
}

const offset = await Promise.resolve(100);

export async function handle(event: { data: { name: string } }): Promise<unknown> {
  const box = new Box({ name: event.data.name } satisfies Named);
  return { text: box.text, colour: Colour.Red, offset: offset as number, bytes: new TextEncoder().encode("ü").length };
}
